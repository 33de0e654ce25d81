#!/bin/sh
# Every search space on one network: the same evaluations, the same fine-tuning, timed together.
#   sh experiments/front.sh resnet20 runs/front
# makes runs/front/resnet20/SPACE-BUDGET and runs/front/resnet20/front.{json,png}. What is there
# already is not made again. Only the end of it, amc front, needs the machine for itself.
set -eu
task=$1
runs=$2/$task
case $task in
    resnet20) budgets="0.38 0.31" nm=0.99 ;;  # 2:4 and 1:4 reach little less than that
    *) budgets="0.38 0.28" nm=0.65 ;;
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

for budget in $budgets; do
    make_run mixed $budget --set $sparse --set $narrow
    make_run channel $budget --set $narrow
done
make_run nm $nm --set $sparse
for budget in $budgets; do
    make_run depth $budget
done
amc front "$runs"/*-* --out "$runs"
