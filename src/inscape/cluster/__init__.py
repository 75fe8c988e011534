"""Many runs of one phase: `inscape sweep` writes them down as jobs, and any machinery may run a job, in any order.

A job is a line of jobs.jsonl (`jobs`), running it is one function of that file and a number (`job`), and what starts
that function somewhere is a runner (`attempt`): local processes, SLURM, Ray.
"""
