"""The agent in closed loop, and the server in front of it."""
