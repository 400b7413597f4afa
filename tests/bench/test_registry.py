"""Registration, and the registered operations themselves at their small sizes."""

import pytest

import bench.catalogue  # noqa: F401
from bench import registry
from bench.registry import BROKEN, FACTS, OPERATIONS, Case, Floor, call, check_names
from bench.runner import verify


@pytest.fixture
def empty_registry(monkeypatch):
    monkeypatch.setattr(registry, "OPERATIONS", {})
    monkeypatch.setattr(registry, "FACTS", {})


def test_every_file_of_operations_is_imported():
    assert not BROKEN


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_implementation_agrees_with_its_reference(name):
    operation = OPERATIONS[name]
    verify(name, operation.make(**operation.small), operation.small)


@pytest.mark.parametrize("name", OPERATIONS)
def test_sizes_fit_the_operation(name):
    operation = OPERATIONS[name]
    case = operation.make(**operation.small)
    assert case.reference in case.implementations
    assert case.implementations[case.reference].comparable
    assert case.floor.bytes > 0 or case.floor.flops > 0
    assert all(0 < each.share <= 1 for each in case.implementations.values())
    benched = [sizes for sizes in (operation.sizes, *operation.gpu_sizes) if sizes]
    assert benched
    assert all(sizes.keys() == operation.small.keys() for sizes in benched)
    for growth in operation.growth:
        assert len(growth.points) >= 4
        assert sorted(set(growth.points)) == list(growth.points)
        # The benched sizes with the small ones in place of the large: does the axis exist?
        operation.make(**{**operation.small, growth.axis: operation.small.get(growth.axis, 5)})


def test_the_first_implementation_is_the_packages():
    case = Case({"ours": call(int), "plain": call(int)}, reference="plain", floor=Floor())
    assert case.subject == "ours"


def test_register(empty_registry):
    make = registry.operation("twice", "kernel", sizes={"n": 9}, small={"n": 2}, threads=1)(dict)
    assert make is dict
    assert registry.OPERATIONS["twice"].sizes == {"n": 9}
    assert registry.OPERATIONS["twice"].threads == 1


def test_a_name_is_taken_once(empty_registry):
    registry.fact("share")(list)
    with pytest.raises(ValueError, match="'share' is registered already"):
        registry.operation("share", "kernel", sizes={}, small={})(dict)
    with pytest.raises(ValueError, match="'share' is registered already"):
        registry.fact("share")(list)


def test_unknown_names_are_refused():
    check_names([*OPERATIONS, *FACTS])
    with pytest.raises(
        ValueError, match=r"no operation named nothing; choose among .*select_unobserved"
    ):
        check_names(["select_unobserved", "nothing"])


def test_call_prepares_a_call_with_its_arguments():
    prepared = call(divmod, 7, 2).prepare()
    assert prepared() == (3, 1)
    assert call(sorted, [1, 2], reverse=True).prepare()() == [2, 1]
