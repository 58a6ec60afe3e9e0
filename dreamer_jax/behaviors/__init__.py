"""How actions are chosen: behaviors learnt in imagination, plans, exploration."""
