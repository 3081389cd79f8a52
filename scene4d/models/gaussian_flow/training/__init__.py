"""How the family is trained: its settings, the stages, and the parts that are trained apart."""
