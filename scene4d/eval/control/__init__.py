"""How often policies succeed."""
