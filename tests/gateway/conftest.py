"""Makes what stands in this folder importable for the tests in the folders below it."""
