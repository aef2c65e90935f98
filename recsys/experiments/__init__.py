"""What it earns: experiments, off-policy estimates, the gate before publication, and the money."""
