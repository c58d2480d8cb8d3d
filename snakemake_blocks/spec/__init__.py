"""From the text of pipeline.yaml to declared tasks."""
