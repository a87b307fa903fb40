"""Damaged input for everything that decodes what others write: records, snapshots, publications, upstream streams.

Real streams of the rehearsal upstream and real records are damaged where it hurts (`damage`), then decoded (`targets`).
Nothing but the typed errors may come out, nothing may hang, and however a stream is cut its events stay the same. Each
case is a number: `python -m tests.fuzz 100000 --from 0` tries a hundred thousand, a bad one is tried again by its own.
"""
