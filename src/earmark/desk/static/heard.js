// Which seconds of a clip were played so that they could be heard.

export class Heard {
  constructor(audio) {
    this.audio = audio;
    this.parts = []; // not told yet, [from, to] in seconds
    this.any = false;
    this.part = null;
    for (const event of ["playing", "timeupdate", "volumechange"])
      audio.addEventListener(event, () => this.note());
    for (const event of ["pause", "ended", "seeking", "emptied"])
      audio.addEventListener(event, () => this.end());
  }

  get isAudible() {
    const { paused, seeking, muted, volume } = this.audio;
    return !paused && !seeking && !muted && volume > 0;
  }

  note() {
    if (!this.isAudible) return this.end();
    const now = this.audio.currentTime;
    if (this.part && now >= this.part[1]) this.part[1] = now;
    else this.parts.push((this.part = [now, now]));
    this.any ||= this.part[1] > this.part[0];
  }

  /** What is played from now on is another part. */
  end() {
    const { currentTime, seeking } = this.audio;
    if (this.part && !seeking && currentTime >= this.part[1]) this.part[1] = currentTime;
    this.any ||= this.part !== null && this.part[1] > this.part[0];
    this.part = null;
  }

  /** What was played since it was last told. */
  asText() {
    return JSON.stringify(this.parts.filter(([from, to]) => to > from));
  }

  /** Note that the desk has these. */
  told(text) {
    const known = new Set(JSON.parse(text).map(String));
    this.parts = this.parts.filter((part) => part === this.part || !known.has(String(part)));
  }
}
