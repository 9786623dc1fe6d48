"""Runs on a SLURM cluster: profiles, submission through submitit, restarts on their own, and jobs."""
