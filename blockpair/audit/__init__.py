"""Audits: every resource's copies compared by themselves, one after the other, and what came of it. Pure, but
for `schedule`, which writes files.
"""
