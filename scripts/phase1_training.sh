#!/usr/bin/env bash
#SBATCH --job-name=audio-fusion-phase1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --output=phase1_%j.txt
#SBATCH --signal=TERM@120
#
# Audio-fusion's phase 1 with the plan's names for its settings, under SLURM or by hand:
#
#     sbatch scripts/phase1_training.sh
#     bash scripts/phase1_training.sh
#     MODEL_CONFIG=phase1 LR_PROJECTOR=1e-3 LR_ADAPTER=5e-4 NUM_EPOCHS=20 sbatch scripts/phase1_training.sh
#
#     MODEL_CONFIG    phase1, or baseline (which the plan also calls full)
#     LR_PROJECTOR, LR_ADAPTER, NUM_EPOCHS, TRAIN_BS, GRADIENT_ACCUMULATION_STEPS    as the plan has them; with two
#                     different rates quick and small take AdamW, as the plan, instead of Muon, and one alone they refuse:
#                     the other would be the preset's, which was found with Muon
#     SOUNDS, CAPTIONS, HELD_OUT_CAPTIONS    folder of audio, and CSV files as AudioCaps'; without them the sound world
#     PRESET    full; quick tries the script out
#     OUT       where runs are kept: runs
#     RESUME    a run that was stopped: it is continued first, and the phases after it follow
#     DRY_RUN   1: print the commands
#
# What is not set is left to the preset: a run with settings of its own opens no gate. Before the time is up SLURM sends
# SIGTERM: the run saves and says how to go on; give that run as RESUME. Out of memory, batches are halved and gathered
# twice as often, by itself.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

preset=${PRESET:-full} out=${OUT:-runs}
case ${MODEL_CONFIG:-phase1} in
    phase1) model=phase1 ;;
    baseline | full) model=baseline ;;
    *)
        echo "MODEL_CONFIG=$MODEL_CONFIG is not known; allowed: phase1, baseline (or full)" >&2
        exit 2
        ;;
esac

# Nonsense is refused here: phase 1 would find it only once identity and connectivity have run.
refuse() {
    echo "$1=$2 is out of range; allowed: $3" >&2
    exit 2
}

rate() { # NAME VALUE
    [[ -z $2 ]] && return
    [[ $2 =~ ^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$ ]] &&
        LC_ALL=C awk -v given="$2" 'BEGIN { exit !(given + 0 > 0 && given + 0 <= 1) }' ||
        refuse "$1" "$2" "a number above 0, up to 1, such as 1e-3"
}

count() { # NAME VALUE LEAST MOST
    [[ -z $2 ]] && return
    [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] && (($2 >= $3 && $2 <= $4)) || refuse "$1" "$2" "a whole number from $3 to $4"
}

same() { # VALUE VALUE: as numbers, 1e-3 and 0.001 alike
    LC_ALL=C awk -v one="$1" -v other="$2" 'BEGIN { exit !(one + 0 == other + 0) }'
}

muon() { [ "$preset" = quick ] || [ "$preset" = small ]; }

alone() { # NAME VALUE OTHER_NAME OTHER_VALUE
    [[ -z $2 || -n $4 ]] || ! muon || refuse "$1" "$2" "at $preset together with $3 only; give both"
}

rate LR_PROJECTOR "${LR_PROJECTOR:-}"
rate LR_ADAPTER "${LR_ADAPTER:-}"
alone LR_PROJECTOR "${LR_PROJECTOR:-}" LR_ADAPTER "${LR_ADAPTER:-}"
alone LR_ADAPTER "${LR_ADAPTER:-}" LR_PROJECTOR "${LR_PROJECTOR:-}"
count NUM_EPOCHS "${NUM_EPOCHS:-}" 0 10000 # 0: the preset's steps count
count TRAIN_BS "${TRAIN_BS:-}" 1 4096
count GRADIENT_ACCUMULATION_STEPS "${GRADIENT_ACCUMULATION_STEPS:-}" 1 1000000

run() {
    if [ "${DRY_RUN:-}" = 1 ]; then
        echo "./inscape $*"
    else
        "${step[@]}" ./inscape "$@"
    fi
}

# As a job step of its own the run is told before the time is up; a batch script's children are not.
step=(env)
[ -z "${SLURM_JOB_ID:-}" ] || step=(srun --ntasks=1)

left=(identity connectivity phase1)
if [ -n "${RESUME:-}" ]; then
    run resume "$RESUME"
    resumed= # the phase of RUNS/audio-fusion/PHASE/PRESET/RUN
    [[ /${RESUME%/} =~ /audio-fusion/([^/]+)/[^/]+/[^/]+$ ]] && resumed=${BASH_REMATCH[1]}
    case $resumed in
        identity) left=(connectivity phase1) ;;
        connectivity) left=(phase1) ;;
        *) left=() ;;
    esac
fi

data=()
[ -z "${SOUNDS:-}" ] || data+=("data.path=$SOUNDS")
[ -z "${CAPTIONS:-}" ] || data+=("data.captions=$CAPTIONS")
[ -z "${HELD_OUT_CAPTIONS:-}" ] || data+=("data.held_out_captions=$HELD_OUT_CAPTIONS")

own=()
[ "$model" = phase1 ] || own+=("model=$model")
[ -z "${LR_PROJECTOR:-}" ] || own+=("$model.lr_projector=$LR_PROJECTOR")
[ -z "${LR_ADAPTER:-}" ] || own+=("$model.lr_adapter=$LR_ADAPTER")
# quick and small take Muon, which knows one learning rate: with two of them it is the plan's own optimizer.
if ! same "${LR_PROJECTOR:-}" "${LR_ADAPTER:-}" && muon; then
    own+=("training.fit.optimizer=adamw")
fi
[ -z "${NUM_EPOCHS:-}" ] || own+=("training.epochs=$NUM_EPOCHS")
[ -z "${TRAIN_BS:-}" ] || own+=("training.batch=$TRAIN_BS")
[ -z "${GRADIENT_ACCUMULATION_STEPS:-}" ] || own+=("training.fit.accumulate=$GRADIENT_ACCUMULATION_STEPS")

for phase in ${left[@]+"${left[@]}"}; do
    settings=(${data[@]+"${data[@]}"})
    [ "$phase" != phase1 ] || settings+=(${own[@]+"${own[@]}"})
    run run "audio-fusion.$phase" --preset "$preset" --out "$out" ${settings[@]+"${settings[@]}"}
done
