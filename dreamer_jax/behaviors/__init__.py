"""How actions are chosen: behaviours learnt in imagination, plans, exploration."""
