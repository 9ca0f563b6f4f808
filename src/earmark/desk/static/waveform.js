// The picture of a clip's loudness.

const BAR = 2;
const GAP = 1; // both in CSS pixels

/** The loudest of the peaks that fall on each of so many bars. */
function gathered(peaks, bars) {
  return Array.from({ length: bars }, (_, bar) => {
    const from = Math.floor((bar * peaks.length) / bars);
    const to = Math.max(from + 1, Math.floor(((bar + 1) * peaks.length) / bars));
    return Math.max(0, ...peaks.slice(from, to));
  });
}

export class Waveform {
  /** @param canvas in an element whose colour is that of what was played already. */
  constructor(canvas) {
    this.canvas = canvas;
    this.peaks = this.bars = [];
    this.played = 0;
    this.colours();
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.colours();
      this.draw();
    });
  }

  /** Fetch the peaks, 0 to 100 each; without them there is a line. */
  async load(url) {
    try {
      const answer = await fetch(url);
      if (answer.ok) this.peaks = (await answer.json()).peaks;
    } catch {
      // The player works without a picture.
    }
    this.resize();
  }

  colours() {
    this.ahead = getComputedStyle(this.canvas).color;
    this.behind = getComputedStyle(this.canvas.parentElement).color;
  }

  resize() {
    const scale = devicePixelRatio;
    this.canvas.width = Math.round(this.canvas.clientWidth * scale);
    this.canvas.height = Math.round(this.canvas.clientHeight * scale);
    this.bars = gathered(this.peaks, Math.floor(this.canvas.clientWidth / (BAR + GAP)));
    this.draw();
  }

  /** @param played share of the clip, 0 to 1. */
  show(played) {
    this.played = played;
    this.draw();
  }

  draw() {
    const { width, height } = this.canvas;
    const pen = this.canvas.getContext("2d");
    const scale = devicePixelRatio;
    const head = this.played * width;
    pen.clearRect(0, 0, width, height);
    this.bars.forEach((peak, bar) => {
      const x = bar * (BAR + GAP) * scale;
      const tall = Math.max(2 * scale, (peak / 100) * (height - 8 * scale));
      pen.fillStyle = x < head ? this.behind : this.ahead;
      pen.fillRect(x, (height - tall) / 2, BAR * scale, tall);
    });
    pen.fillStyle = this.behind;
    pen.fillRect(Math.min(head, width - 2 * scale), 0, 2 * scale, height);
  }
}
