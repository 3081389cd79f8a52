"""What `scene4d view` is made of: the panel, what it shows, and who may look."""
