"""Jobs on a SLURM cluster: the script of a run, and what is checked before it is queued."""
