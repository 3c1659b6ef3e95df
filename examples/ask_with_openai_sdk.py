"""Ask your documents with the official openai SDK.

    pip install openai
    gimle up                                  # in another terminal; it prints where the key is
    gimle upload examples/corpus
    GIMLE_KEY=$(cat …/admin.key) python examples/ask_with_openai_sdk.py "What does a lost key cost me?"

The one thing that is not OpenAI's is the object `gimle` in `extra_body`: it names the collection to answer from.
"""

import os
import sys

from openai import OpenAI

question = " ".join(sys.argv[1:]) or "How far away from a footpath does my hive have to be?"
client = OpenAI(
    base_url=os.environ.get("GIMLE_URL", "http://127.0.0.1:8080") + "/v1",  # noqa: TID251  a program of yours, not ours
    api_key=os.environ["GIMLE_KEY"],  # noqa: TID251
)
completion = client.chat.completions.create(
    model="auto",
    messages=[{"role": "user", "content": question}],
    extra_body={"gimle": {"collection": "default"}},
)
message = completion.choices[0].message
print(message.content)
for citation in message.model_dump()["gimle"]["citations"]:
    page = f", page {citation['page']}" if citation["page"] else ""
    print(f"[{citation['n']}] {citation['document_name']}{page}: {citation['quote']!r}")
