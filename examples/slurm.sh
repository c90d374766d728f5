#!/bin/bash
# One run on two machines of four GPUs, handed in with `sbatch examples/slurm.sh`.
#
# Two minutes before its time is over it is asked to stop: it validates, saves, and the job goes back
# into the queue, where it goes on. A machine that fails costs what came after the last validation.
#SBATCH --job-name=schnet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=INT@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -u
run=runs/frames

begin=(--output "$run")
if [ -f "$run/last.ckpt" ]; then
    begin=(--resume "$run")
fi

# As many devices as tasks on each machine, and the machines. The processes share each batch, so the
# model does not depend on their number. The first one writes the frames under data/frames, where
# all map the same files into memory.
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun pyg-schnet train trajectories --paths "data/*.extxyz" "${begin[@]}" \
    --root data/frames --in_memory false --train_size 4000000 --val_size 10000 --test_size 10000 \
    --devices 4 --num_nodes 2 --accelerator gpu \
    --batch_size 256 --lr 0.002 --max_time 3d --val_every 2000

# A run that has come to its end has written what it was tested with.
if ! grep -q '"stopped": "\(max_steps\|max_time\|no improvement\)"' "$run/metrics.json" 2>/dev/null
then
    scontrol requeue "$SLURM_JOB_ID"
fi
