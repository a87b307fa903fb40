"""The words of tailrace."""
