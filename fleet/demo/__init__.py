"""`lamplighter demo`: a coordinator and eight agents, real processes with real trouble."""
