"""The learned simulator: a world model behind the interfaces of gymnasium."""
