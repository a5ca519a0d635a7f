"""Prints the table of src/measure/tasks/ifeval/capitals.rs: how much the letters at which words begin and end speak for
each language that the reference's detector sees in English texts all in capitals.

usage: python tests/golden/make/capitals.py TEXT…        (langdetect 1.0.9, scikit-learn; English, paragraphs between empty lines)

Of a word in capitals the detector reads the first letter and the last one, each with the blank beside it. Pieces of 2 to
360 words are put into capitals, the detector names their languages, and a logistic regression on the shares of the letters
learns to name the same. Weights are rounded to whole numbers, of which the largest sum wins.
"""
import random, re, sys
import langdetect
import numpy as np
from sklearn.linear_model import LogisticRegression

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LANGUAGES = ["en", "de", "vi", "so", "hu", "pt", "tl"]
langdetect.DetectorFactory.seed = 0
draw = random.Random(11)


def shares(text):
    counts = np.zeros(78)
    for word in re.findall("[A-Z]+", text):
        if len(word) == 1:
            counts[52 + LETTERS.index(word)] += 1
        else:
            counts[LETTERS.index(word[0])] += 1
            counts[26 + LETTERS.index(word[-1])] += 1
    return counts / counts.sum() if counts.sum() else None


def piece(text):
    words, length = text.split(), int(2 ** draw.uniform(1, 8.5))
    start = draw.randrange(max(1, len(words) - length + 1))
    return " ".join(words[start:start + length]).upper()


rows = []
for path in sys.argv[1:]:
    for paragraph in open(path, encoding="utf-8").read().split("\n\n"):
        for text in (piece(paragraph), piece(paragraph)):
            counts = shares(text) if text.isupper() else None
            if counts is not None:
                found = langdetect.detect(text)
                rows.append((counts, found if found in LANGUAGES else "other"))
model = LogisticRegression(C=10, max_iter=500).fit(10 * np.array([c for c, _ in rows]), [l for _, l in rows])
weights = 10 * model.coef_ + model.intercept_[:, None]
for name, row in zip(model.classes_, np.round(weights - weights.mean(0)).astype(int)):
    print(f'("{name}", [{", ".join(str(list(row[i:i + 26])) for i in (0, 26, 52))}]),')
