"""A server that lacks pgvector, or whose user may not install it: collections work, and use it once it is there."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from penstock.collections.collection import Search
from penstock.collections.duties import CollectionIndexes
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.migrate import migrate
from tests.support.collections import collection, collection_service, random_vectors
from tests.support.databases import execute, open_database, own_database, own_tenant, query

EXTENSION = "SELECT count(*) FROM pg_extension WHERE extname = 'vector'"


async def test_an_ordinary_user_migrates_and_uses_the_extension_when_an_operator_installs_it(
    postgres_server: EmbeddedServer,
) -> None:
    async with own_database(postgres_server) as admin_url, open_database(admin_url) as admin:
        await execute(admin, "DROP SCHEMA penstock CASCADE")
        ((name,),) = await query(admin, "SELECT current_database()::text")
        await execute(admin, "DROP ROLE IF EXISTS ordinary")
        await execute(admin, f"CREATE ROLE ordinary LOGIN; GRANT ALL ON DATABASE {name} TO ordinary")
        parts = urlsplit(admin_url)
        url = urlunsplit(parts._replace(netloc=f"ordinary@{parts.netloc.rpartition('@')[2]}"))
        await migrate(url)
        assert await query(admin, EXTENSION) == [(0,)]
        async with open_database(url) as database:
            service, tenant = collection_service(database), await own_tenant(database)
            vectors = random_vectors(150, 4)
            await collection(service, tenant, vectors)
            wanted = Search(vector=next(iter(vectors.values())), k=5, vectors=True)
            before = await service.search(tenant, "things", wanted)
            indexes = CollectionIndexes(database, min_items=100)
            assert not await indexes.once(), "nothing can be indexed"
            await execute(admin, "CREATE SCHEMA elsewhere; CREATE EXTENSION vector SCHEMA elsewhere")
            await execute(admin, "GRANT USAGE ON SCHEMA elsewhere TO ordinary")
            assert await indexes.once(), "an index is built with it"
            found = await service.search(tenant, "things", wanted)
            assert (before.exact, found.exact) == (True, False)
            assert [one.key for one in found.matches] == [one.key for one in before.matches]
        await execute(admin, f"REVOKE ALL ON DATABASE {name} FROM ordinary; DROP OWNED BY ordinary; DROP ROLE ordinary")
