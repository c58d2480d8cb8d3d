"""Operations: what users of volumes need again and again, as ordinary tasks that do it.

``use: label`` in a task of pipeline.yaml, or :func:`~.registry.operation_tasks` in Python, becomes
tasks called ``<task>_<step>``. A module each: its form, its steps, and what they call.
"""
