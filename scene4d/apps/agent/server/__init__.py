"""What `scene4d serve` is made of: messages, host, door, and the client for them."""
