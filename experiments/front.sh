#!/bin/sh
# Every search space on one network: the same evaluations, the same fine-tuning, timed together.
#   sh experiments/front.sh resnet20 runs/front
# makes runs/front/resnet20/SPACE-BUDGET and runs/front/resnet20/front.{json,png}. What is there
# already is not made again. Only the end of it, amc front, needs the machine for itself.
set -eu
task=$1
runs=$2/$task
# Fractions of the latency. On resnet20 channel ends at 0.34, nm between 0.92 and 0.98 as tables say; on
# mobilenet nm near 0.6.
case $task in
    resnet20) mixed="0.345 0.31" channel="0.5 0.38" nm="0.99" ;;
    *) mixed="0.23 0.18" channel="0.23 0.18" nm="0.65" ;;
esac
recipe=experiments/finetune_full_$task.yaml
sparse=sites.weight_criterion=second_order
narrow=sites.min_keep_ratio=0.1

make_run() {  # SPACE BUDGET [--set OPTION]...
    space=$1 budget=$2
    shift 2
    dir=$runs/$space-$budget
    if [ ! -f "$dir/summary.json" ]; then
        amc search "experiments/front_$task.yaml" --run-dir "$dir" --set "space=$space" \
            --set "budget.predicted_latency=$budget" "$@"
    fi
    again=
    for begun in "$dir"/*/plan-finetuned; do
        if [ -d "$begun" ]; then again=--resume; fi
    done
    amc finetune "$dir" --recipe "$recipe" $again
}

for budget in $mixed; do make_run mixed $budget --set $sparse --set $narrow; done
for budget in $channel; do make_run channel $budget --set $narrow; done
for budget in $nm; do make_run nm $budget --set $sparse; done
amc front "$runs"/*-* --out "$runs"
