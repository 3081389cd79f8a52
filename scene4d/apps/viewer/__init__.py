"""What `scene4d view` is made of: the stage, what stands on it, and who may look."""
