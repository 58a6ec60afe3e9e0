"""How good a world model is, from arrays: probes, information, forecasts, calibration, collapse, decisions."""
