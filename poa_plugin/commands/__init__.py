"""The commands of `poa`: what adds each to the parser, and what it does.

Each imports what it needs when it runs, so that help is quick.
"""

from __future__ import annotations

from poa_plugin.commands import checkpoints, cluster, evaluation, information, models, training

IN_ORDER = (
    training.train_command,
    training.plan_command,
    cluster.submit_command,
    cluster.jobs_command,
    checkpoints.checkpoint_command,
    information.networks_command,
    information.recipes_command,
    information.config_command,
    models.extract_command,
    models.export_command,
    models.import_command,
    evaluation.eval_command,
    evaluation.sweep_command,
    evaluation.pick_command,
    information.data_command,
    evaluation.report_command,
    training.demo_command,
    information.completion_command,
)
"""What adds each to the parser, in the order of the help."""
