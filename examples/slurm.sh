#!/bin/bash
# Several games and seeds as a Slurm job array, one training each:
#
#   sbatch --array=0-9 --time=24:00:00 examples/slurm.sh --configs atari
#
# A training that meets the time limit saves a minute before, and its job goes back into the queue,
# as it does after a lost node. The same command continues it. After scancel it saves and ends.
#SBATCH --job-name=dreamerv2 --output=dreamerv2-%A-%a.log --open-mode=append
#SBATCH --gpus=1 --cpus-per-task=2 --mem=8G
#SBATCH --requeue --signal=B:USR1@60

tasks=(atari_pong atari_boxing)  # index 0 and 1 are seed 0 of both, 2 and 3 are seed 1, ...
task=${tasks[SLURM_ARRAY_TASK_ID % ${#tasks[@]}]}
seed=$((SLURM_ARRAY_TASK_ID / ${#tasks[@]}))

python -m dreamerv2.train --logdir "${LOGDIR:-$HOME/logdir}/$task/slurm/$seed" "$@" \
  --task "$task" --seed "$seed" &
trap 'again=yes; kill -TERM $!' USR1
wait $!  # until the training ends, or the signal comes
wait $!
status=$?
if [ "$again" ] && [ $status = 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
