"""The exhaustive part of the tests: what runs only with `--thorough`.

A key of `KEPT` is a file or `file::test`, a value the parameters that the default run keeps, as a regular expression
that is searched in the test's parameters, `lenet-float64` of `test_taps[lenet-float64]`. All other parameters are
thorough; with `None`, the whole test is. A test without parameters is always kept by an entry for its file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

KEPT: Mapping[str, str | None] = {
    # A framework compiles each network anew: the default run has one for each kind of layer.
    "tests/training/test_loop.py::test_each_kind_of_network_reduces_the_loss_of_one_batch": "regnetx32",
    "tests/training/test_loop.py::test_runs_killed_or_interrupted_at_any_moment_resume_to_identical_weights": "^two$",
    "tests/ports/test_trainer.py::test_each_step_is_the_definitions": (
        "sgd-2-bn_lenet|momentum-4-lenet|nesterov-6-bn_lenet|adam-8-lenet|adamw-10-bn_lenet"
    ),
    "tests/ports/test_trainer.py::test_float32_takes_the_same_steps_to_its_rounding": "^(sgd|adam)$",
    "tests/ports/test_trainer.py::test_a_run_carried_on_from_its_state_ends_in_the_same_bytes": "bn_lenet-adam|nin-sgd",
    "tests/ports/test_trainer.py::test_gradients_are_the_derivatives_of_the_references_loss": (
        "^(lenet|bn_lenet|densenet|regnetx32)$"
    ),
    "tests/ports/test_trainer.py::test_masks_are_fresh_at_each_step_and_reproducible_from_the_seed": None,
    "tests/ports/test_trainer.py::test_dropout_drops_its_share_and_scales_the_rest": "0.2",
    "tests/ports/test_backend.py::test_every_tap_is_the_references": "float64",
    "tests/ports/test_backend.py::test_a_batch_of_one_at_the_default_size_agrees_and_run_gives_the_traces_logits": (
        "^(lenet|resnet18)$"
    ),
    "tests/ports/test_backend.py::test_training_normalizes_by_the_batch_and_moves_the_biased_statistics": (
        "^(bn_lenet_scratch|resnet-13|resnext|densenet-15)"
    ),
    "tests/ports/test_backend.py::test_a_compiled_model_computes_the_same": "^(lenet|resnet)$",
    "tests/ports/test_backend.py::test_a_built_model_trains_as_any_other": "^bn_lenet$",
    "tests/ports/test_backend.py::test_canonical_to_native_and_back_is_the_same_bytes": "float32",
    "tests/ports/test_grouped_convolution.py::test_a_grouped_convolution_and_its_gradients_match_the_definition": (
        "^(2-16-16|3-1-2)"
    ),
    # The frameworks' own tools: one network of each kind.
    "tests/ports/test_torch_tools.py": r"\b(lenet|bn_lenet_scratch|googlenet|resnet_small|densenet_small)\b",
    "tests/ports/test_flax_tools.py": r"^(nnx.clone-)?(bn_lenet|vgg|resnext|vgg11|densenet)$",
    "tests/ports/test_keras_tools.py": (
        r"^(lenet|resnet|densenet-family|Residual|Conv2D|MaxPool2D|BatchNorm)(-float32)?$"
    ),
    "tests/ports/test_keras_tools.py::test_keras_trains_evaluates_and_predicts_and_what_it_saves_goes_on": "^resnet$",
    "tests/ports/test_gluon_tools.py": r"^(lenet|bn_lenet_scratch|resnet|densenet)(-|$)",
    # Execution paths and exports: one format of each runtime.
    "tests/ports/test_deploy.py::test_the_deploy_form_is_the_same_function": "^(lenet|resnet18|densenet)$",
    "tests/ports/test_deploy.py::test_every_artifact_answers_as_the_reference_without_this_project": (
        "torch-aot$|stablehlo|saved-model|mxnet"
    ),
    "tests/ports/test_deploy.py::test_every_artifact_answers_as_the_reference_in_another_environment": (
        "onnx-torch|litert-tf"
    ),
    "tests/deploy/export/test_export.py::test_an_export_is_verified_and_its_manifest_is_complete": (
        "torch-export|onnx|stablehlo|mxnet"
    ),
    "tests/deploy/export/test_export.py::test_float16_and_int8_exports_are_verified": "tf-padded-pool",
    # Mistakes put into every port, and worker processes that fail: a sample.
    "tests/mutants/test_mutants.py::test_a_sample_of_all_other_mutants_is_found": None,
    "tests/testing/test_comparison.py::test_a_network_agrees_with_its_definition": None,
    "tests/testing/test_comparison.py::test_the_pytest_plugin": None,
    "tests/parity/test_worker_faults.py::test_a_fault_fails_only_its_own_cells_and_gives_the_reason": (
        "segfault|print_from_python|raise_an_error|nothing_at_all|off_by"
    ),
    "tests/parity/test_worker_faults.py::test_a_silent_worker_is_ended": "hang_at_the_start",
    "tests/parity/test_worker_faults.py::test_a_fault_in_training_fails_only_its_own_cells": "segfault|infinity|off_by",
    "tests/parity/test_worker_faults.py::test_an_interrupted_run_leaves_nothing": "^(SIGINT|SIGINT,SIGTERM)$",
    # The page's rows depend on the order of networks over all pitfalls; the default run has a sample of these.
    "tests/mutants/test_pitfalls.py::test_the_page_says_what_parity_finds": None,
    # The documentation: training takes minutes, and tests/testing/test_own_port.py runs that page's example.
    "tests/test_docs.py::test_every_block_of_code_runs": "README|CONTRIBUTING|cli|parity|deploy|diagnosis",
    "tests/parity/test_matrix.py": "momentum|summed over the batch|rounded momentum",
}


def is_thorough(test: str) -> bool:
    """Return whether only `--thorough` runs a test, `file::test[parameters]`."""
    name, _, parameters = test.partition("[")
    for key in (name, name.partition("::")[0]):
        if key in KEPT:
            kept = KEPT[key]
            if kept is None:
                return True
            return bool(parameters) and not re.search(kept, parameters.removesuffix("]"))
    return False
