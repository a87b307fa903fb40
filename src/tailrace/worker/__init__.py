"""The worker: takes jobs off the queue, streams the answers of upstreams and writes them to the jobs' logs."""
