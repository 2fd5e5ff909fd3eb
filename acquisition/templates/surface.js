"use strict";
// The surface that turns, for the report and for the page.

const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));

// A height field drawn quadrilateral by quadrilateral from the back to the front: no sorting, no graphics card.
class Viewer {
  constructor(canvas, scene) {
    this.canvas = canvas;
    this.paper = canvas.getContext("2d");
    this.scene = scene;
    this.colours = bytes(scene.colours);
    this.angle = -0.62;
    this.tilt = 0.62;
    this.chosen = 0;
    this.fields = scene.surfaces.map((one) => this.unpack(one));
    const relief = Math.max(scene.high - scene.low, 1e-9);
    // The middle of the slider makes the relief a sixth of the field's width; its left end is true to scale.
    this.middle = Math.max(1, scene.surfaces[0].width / 6 / relief);
    this.floor = Math.min(...scene.surfaces.map((one) => one.low)) - 0.06 * relief;
    this.slide(50);
  }
  unpack(one) {
    const numbers = new DataView(bytes(one.heights).buffer);
    const count = one.rows * one.columns, z = new Float32Array(count);
    for (let i = 0; i < count; i++) z[i] = one.low + numbers.getUint16(2 * i, true) / 65535 * (one.high - one.low);
    return {...one, z};
  }
  slide(value) {
    this.stretch = Math.pow(this.middle, value / 50);
    this.paint = this.fields.map(() => null);
  }
  // The colour of each cell: its height, under a light that turns with the sample.
  paints(index) {
    if (this.paint[index]) return this.paint[index];
    const {z, rows, columns, width} = this.fields[index];
    const {low, high} = this.scene, step = width / columns, made = new Array((rows - 1) * (columns - 1));
    const lift = this.stretch;
    for (let r = 0; r + 1 < rows; r++) {
      for (let c = 0; c + 1 < columns; c++) {
        const a = z[r * columns + c], b = z[r * columns + c + 1];
        const d = z[(r + 1) * columns + c], e = z[(r + 1) * columns + c + 1];
        const p = lift * (b + e - a - d) / (2 * step), q = lift * (a + b - d - e) / (2 * step);
        const light = 0.5 + 0.6 * Math.max(0, (0.5 * p - 0.5 * q + 0.72) / Math.sqrt(1 + p * p + q * q));
        const place = Math.max(0, Math.min(255, Math.round((((a + b + d + e) / 4) - low) / (high - low) * 255)));
        const part = (k) => Math.min(255, Math.round(this.colours[3 * place + k] * light));
        made[r * (columns - 1) + c] = `rgb(${part(0)},${part(1)},${part(2)})`;
      }
    }
    return (this.paint[index] = made);
  }
  draw() {
    const {paper, canvas} = this, field = this.fields[this.chosen], {z, rows, columns} = field;
    const paints = this.paints(this.chosen);
    const larger = Math.max(rows, columns), size = Math.min(canvas.width * 0.6, canvas.height * 1);
    const cos = Math.cos(this.angle), sin = Math.sin(this.angle), up = Math.cos(this.tilt), flat = Math.sin(this.tilt);
    const lift = this.stretch * size / field.width * up * (columns / larger);
    const middle = (this.scene.low + this.scene.high) / 2, floor = this.floor;
    const X = new Float32Array(rows * columns), Y = new Float32Array(rows * columns), F = new Float32Array(rows * columns);
    for (let r = 0, i = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++, i++) {
        const x = ((c + 0.5) / columns - 0.5) * columns / larger, y = (0.5 - (r + 0.5) / rows) * rows / larger;
        X[i] = canvas.width / 2 + size * (x * cos - y * sin);
        const ground = canvas.height * 0.47 - size * (x * sin + y * cos) * flat;
        Y[i] = ground - (z[i] - middle) * lift;
        F[i] = ground - (floor - middle) * lift;
      }
    }
    paper.clearRect(0, 0, canvas.width, canvas.height);
    // What is far has the larger x·sin + y·cos: rows and columns are walked from there.
    const firstRow = cos > 0 ? 0 : rows - 2, rowStep = cos > 0 ? 1 : -1;
    const firstColumn = sin > 0 ? columns - 2 : 0, columnStep = sin > 0 ? -1 : 1;
    paper.lineWidth = 1;
    for (let r = firstRow; r >= 0 && r + 1 < rows; r += rowStep) {
      for (let c = firstColumn; c >= 0 && c + 1 < columns; c += columnStep) {
        const i = r * columns + c, j = i + columns;
        paper.beginPath();
        paper.moveTo(X[i], Y[i]); paper.lineTo(X[i + 1], Y[i + 1]); paper.lineTo(X[j + 1], Y[j + 1]); paper.lineTo(X[j], Y[j]);
        paper.closePath();
        paper.fillStyle = paper.strokeStyle = paints[r * (columns - 1) + c];
        paper.fill(); paper.stroke();
      }
    }
    const nearRow = cos > 0 ? rows - 1 : 0, nearColumn = sin > 0 ? 0 : columns - 1;
    this.wall(Array.from({length: columns}, (_, c) => nearRow * columns + c), X, Y, F, "#3d434b");
    this.wall(Array.from({length: rows}, (_, r) => r * columns + nearColumn), X, Y, F, "#565d66");
  }
  wall(edge, X, Y, F, colour) {
    const paper = this.paper;
    paper.beginPath();
    edge.forEach((i, k) => (k ? paper.lineTo(X[i], Y[i]) : paper.moveTo(X[i], Y[i])));
    edge.slice().reverse().forEach((i) => paper.lineTo(X[i], F[i]));
    paper.closePath();
    paper.fillStyle = colour;
    paper.fill();
  }
}

