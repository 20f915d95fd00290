import pytest


@pytest.mark.xdist_group("kept together")
def test_groups_of_tests_stay_together(request):
    """Else `make test` makes what a group shares once for each process, and says nothing."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("without --dist loadgroup there are no groups")
    assert request.node.nodeid.endswith("@kept together")
