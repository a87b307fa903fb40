"""tailrace."""
