"""The native HTTP API: jobs as tailrace knows them."""
