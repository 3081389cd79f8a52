"""What the action head learns from: demonstrations, samples, labels."""
