"""What `scene4d serve` is made of: messages, host, access, and the client for them."""
