"""The console: a page at `/` that shows jobs as they come and go, and one job's stream with its steps.

`static/` holds the page as it is sent: ES modules, no build step, nothing from elsewhere. It uses the native API like any
other client, so it sees what whoever opened it may see.
"""
