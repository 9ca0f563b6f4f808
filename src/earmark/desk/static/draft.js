// What is written and ticked about an item before it is decided, and how much of a note fits.

/** Characters as the desk counts them. */
const length = (text) => [...text.replaceAll("\r\n", "\n")].length;

export class Draft {
  /** @param form with the boxes and the note. */
  constructor(form) {
    this.form = form;
    this.note = form.elements.note;
    this.count = document.getElementById("note-count");
    this.kept = document.getElementById("kept");
    this.version = this.keptVersion = 0;
    this.onchange = () => {};
    form.addEventListener("input", () => this.change());
    this.show();
  }

  get isChanged() {
    return this.version !== this.keptVersion;
  }

  get isTooLong() {
    return length(this.note.value) > Number(this.note.dataset.most);
  }

  get tooMuch() {
    const over = length(this.note.value) - Number(this.note.dataset.most);
    return `The note is ${over.toLocaleString("en")} characters too long; shorten it. Nothing of it is cut off.`;
  }

  change() {
    this.version += 1;
    this.kept.textContent = "";
    this.show();
    this.onchange();
  }

  show() {
    const { most, mostDraft } = this.note.dataset;
    const used = length(this.note.value);
    this.count.textContent = `${used.toLocaleString("en")} of ${Number(most).toLocaleString("en")} characters`;
    if (this.isTooLong) this.count.textContent += used > mostDraft ? ": too long, and not kept" : ": too long";
    this.note.setAttribute("aria-invalid", this.isTooLong);
  }

  /** What a sign of life sends along: the form if it changed and can be kept. */
  asForm() {
    if (!this.isChanged || length(this.note.value) > Number(this.note.dataset.mostDraft)) return new FormData();
    const form = new FormData(this.form);
    form.set("changed", "true");
    return form;
  }

  /** Note that the desk has what there was at a version. */
  keptUpTo(version) {
    if (!this.isChanged || length(this.note.value) > Number(this.note.dataset.mostDraft)) return;
    this.keptVersion = version;
    if (!this.isChanged) this.kept.textContent = "Kept";
  }
}
