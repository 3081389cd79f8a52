"""What a world model is: the contract, and what can be done with any model."""
