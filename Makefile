# GNU make. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules
.NOTPARALLEL:

# Variables of a study: `make strong-scaling TASK=Isaac-Ant-Direct GPUS=1,2,4`. They reach the recipes through the
# environment and as they were typed: neither make nor the shell interprets what is in them.
STUDY_VARIABLES := TASK TRAINER GPUS ENVS REPEATS ITERATIONS CLUSTER STUDY FOLDER NODES IMAGE WITH OUTPUT PHYSICS NSYS PRESET
$(foreach name,$(STUDY_VARIABLES),$(eval override $(name) := $$(value $(name))))
export $(STUDY_VARIABLES)
export PYTHON

paceline := .venv/bin/paceline
python := .venv/bin/python
# $(call run,STUDY,ENVS' key) runs a study with the variables that were given.
run = $(paceline) run "$${STUDY:-$(1)}" $${CLUSTER:+--cluster "$$CLUSTER"} $${FOLDER:+--folder "$$FOLDER"} \
	$${NODES:+--nodes "$$NODES"} \
	$${TASK:+--set "task=$$TASK"} $${TRAINER:+--set "trainer=$$TRAINER"} $${GPUS:+--set "world_sizes=$$GPUS"} \
	$${ENVS:+--set "$(2)=$$ENVS"} $${REPEATS:+--set "repeats=$$REPEATS"} $${ITERATIONS:+--set "iterations=$$ITERATIONS"}
shell_scripts = $(shell git ls-files -c -o --exclude-standard '*.sh') .ci/run
pytest = $(python) -m pytest --durations=15

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  Variables: TASK= TRAINER=rsl_rl|rl_games GPUS=1,2,4,8 ENVS= REPEATS= ITERATIONS= CLUSTER= NODES= STUDY= FOLDER= PRESET="

.PHONY: strong-scaling
strong-scaling: setup ## Run the strong-scaling study (ENVS in total) and report
	@$(call run,strong_scaling,num_envs)

.PHONY: weak-scaling
weak-scaling: setup ## Run the weak-scaling study (ENVS per rank) and report
	@$(call run,weak_scaling,num_envs_per_rank)

.PHONY: env-sweep
env-sweep: setup ## Find out how many environments one GPU should simulate (ENVS: the first number), and report
	@$(call run,env_sweep,start_envs)

.PHONY: profile
profile: setup ## Profile the study at 1 and at all GPUs (nsys if it is there), and say where the time goes
	@$(paceline) profile "$${STUDY:-strong_scaling}" $${CLUSTER:+--cluster "$$CLUSTER"} $${FOLDER:+--folder "$$FOLDER"} \
	$${TASK:+--set "task=$$TASK"} $${TRAINER:+--set "trainer=$$TRAINER"} $${ENVS:+--set "num_envs=$$ENVS"} \
	$${GPUS:+--gpus="$$GPUS"} $${ITERATIONS:+--iterations="$$ITERATIONS"}

.PHONY: image
image: setup ## Build the image IMAGE (isaaclab-3.0) with Apptainer, Docker or Podman, whichever is here, or WITH=
	@$(paceline) image build "$${IMAGE:-isaaclab-3.0}" $${WITH:+--with "$$WITH"} $${OUTPUT:+--output "$$OUTPUT"} \
	$${PHYSICS:+--build-arg "PHYSICS=$$PHYSICS"} $${NSYS:+--build-arg "NSYS=$$NSYS"}

.PHONY: doctor
doctor: setup ## Check this site (CLUSTER) and this machine before anything is queued
	@$(paceline) doctor $${CLUSTER:+--cluster "$$CLUSTER"}

.PHONY: compare-gpus
compare-gpus: setup ## Run the same case on each GPU type of CLUSTER (ENVS per GPU), and report
	@$(paceline) compare-gpus $${STUDY:+"$$STUDY"} $${CLUSTER:+--cluster "$$CLUSTER"} $${FOLDER:+--folder "$$FOLDER"} \
	$${TASK:+--task "$$TASK"} $${TRAINER:+--trainer "$$TRAINER"} $${GPUS:+--gpus "$$GPUS"} $${ENVS:+--envs "$$ENVS"} \
	$${REPEATS:+--repeats "$$REPEATS"} $${ITERATIONS:+--set "iterations=$$ITERATIONS"}

.PHONY: train
train: setup ## Train to the end as PRESET says (PRESET=cartpole_2min), over as many jobs as it takes
	@$(paceline) train "$${PRESET:?make train PRESET=<name or file>}" $${CLUSTER:+--cluster "$$CLUSTER"} \
		$${FOLDER:+--folder "$$FOLDER"} $${TASK:+--set "task=$$TASK"} $${TRAINER:+--set "trainer=$$TRAINER"} \
		$${ENVS:+--set "num_envs=$$ENVS"} $${ITERATIONS:+--set "iterations=$$ITERATIONS"}

.PHONY: tensorboard
tensorboard: jobs-environment ## Show the curves of the campaign in FOLDER (default: all in outputs/)
	@.venv-isaaclab-3.0/bin/tensorboard --logdir "$${FOLDER:-outputs}"

.PHONY: report
report: setup ## Write the report of the study in FOLDER again
	@$(paceline) report "$${FOLDER:?make report FOLDER=<study folder>}"

.PHONY: setup
setup: ## Make .venv, with the command .venv/bin/paceline
	@bash bench/setup.sh user

.PHONY: dev
dev: ## The same, with what tests and checks need
	@bash bench/setup.sh dev

.PHONY: jobs-environment
jobs-environment: setup ## Make the environment of the jobs (Isaac Lab) now instead of when it is first needed
	@$(python) -m paceline.bench.environment

.PHONY: components
components: # Slurm, a browser and other programs that tests need
	@bash tests/install/debian.sh

.PHONY: test
test: dev components jobs-environment ## Run the fast tests, then the slow ones (real Slurm, real Isaac Lab)
	@$(pytest) -n 2 -m "not slow and not gpu"
	@# Three files at a time on two cores: Slurm's jobs and injected hangs leave the cores idle a third of the time.
	@$(pytest) -n 3 --dist loadfile --no-loadscope-reorder -m "slow and not gpu"

.PHONY: test-fast
test-fast: dev ## Run the tests that take seconds
	@$(pytest) -n 2 -m "not slow and not gpu"

.PHONY: test-gpu
test-gpu: dev ## Run the tests that need NVIDIA GPUs
	@$(pytest) -m gpu

.PHONY: lint
lint: dev ## Check style and format (ruff, shellcheck, hadolint)
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet
	@bash tests/install/debian.sh shellcheck
	@shellcheck $(shell_scripts)
	@.venv/bin/hadolint containers/*/Dockerfile

.PHONY: format
format: dev ## Format the code and mend what ruff can
	@.venv/bin/ruff check --quiet --fix
	@.venv/bin/ruff format --quiet

.PHONY: types
types: dev build/typing ## Check types (mypy --strict)
	@.venv/bin/mypy -p paceline
	@.venv/bin/mypy tests

# Type checkers do not see how packages map to folders (docs/decisions/0001): four links show them.
build/typing:
	@mkdir -p $@/paceline
	@for name in bench profiling analysis slurm_templates; do ln -sfn "../../../$$name" "$@/paceline/$$name"; done

.PHONY: golden
golden: dev ## Write the expected job scripts in tests/golden again (review the difference)
	@$(pytest) -q tests/golden --rewrite-golden

.PHONY: findings
findings: setup ## Make docs/findings.md, its figures and the README's headline from the records again
	@$(python) -m paceline.analysis.findings

.PHONY: schema
schema: setup ## Write the JSON Schemas of study and cluster files, for editors
	@$(paceline) schema docs/schemas

.PHONY: bench
bench: dev ## Measure Paceline itself against its targets
	@$(python) tests/benchmarks/run.py

.PHONY: clean
clean: ## Remove what was made here, but for environments and studies
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
