"""Configuration: schema, bounds, rules between fields, and composition by Hydra. No torch."""
