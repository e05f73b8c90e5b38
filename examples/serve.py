"""From a trained run to answers for users it knows, users it does not, and items: ``python examples/serve.py``."""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor

from infodcl_geo import InfodclGeoError, Recommender, configure, run
from infodcl_geo.data.generated import demo
from infodcl_geo.index import ItemIndex, build_index
from infodcl_geo.new_items import with_new_items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()

    made = demo()  # generated, with planted tastes
    data = made.interactions
    outcome = run(data, configure("infodcl", epochs=options.epochs))
    with tempfile.TemporaryDirectory() as folder:
        Recommender.from_run(outcome, data).save(folder)  # weights, ids and a model card, replaced as one
        model = Recommender.load(folder)

    known, unknown = model.recommend([3, 999_999], k=5, unknown="popular")
    print(f"user {known.user}: items {known.items.tolist()}")
    print(f"unknown user: popular items {unknown.items.tolist()}, known {unknown.known}")

    # A new user is what the user took: nothing is trained. Filters are raw ids, too.
    history = known.items[:3].tolist()
    (new,) = model.recommend_for([history], k=5, excluded=[known.items[3]])
    print(f"new user with {history}: items {new.items.tolist()}")
    (similar,) = model.similar_items([history[0]], k=3)
    print(f"like item {similar.user}: items {similar.items.tolist()}")

    # A new item is what the items with the most similar features are; here its topics are those of the first one.
    features = made.item_interests.float()
    more = with_new_items(model, [1_000_000], features, features[data.item_ids.encode([history[0]])])
    (like,) = more.similar_items([1_000_000], k=3)
    taken = sum(1_000_000 in answer.items for answer in more.recommend(data.user_ids.raw, k=20))
    print(f"new item: like items {like.items.tolist()}, among the 20 best of {taken} users")

    # It is never changed, so threads share it.
    with ThreadPoolExecutor(8) as threads:
        lists = list(threads.map(lambda user: model.recommend([user], k=20)[0], range(200)))
    print(f"{len(lists)} users from 8 threads")

    try:
        index = ItemIndex(model, build_index(model))
    except InfodclGeoError as error:  # FAISS is an extra
        print(error)
        return
    found = index.recommend(range(200), k=20)
    same = sum(a.items.tolist() == b.items.tolist() for a, b in zip(lists, found, strict=True))
    print(f"FAISS gives the same 20 items to {same} of {len(lists)} users")


if __name__ == "__main__":
    main()
