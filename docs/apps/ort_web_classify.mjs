// Classify an image with onnxruntime-web: node ort_web_classify.mjs model.onnx WIDTH HEIGHT < pixels
// The pixels are RGB bytes, as a canvas's getImageData gives them without its fourth channel.
// npm install onnxruntime-web

import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

// onnxruntime-web does not show a file's metadata: fields 14 of the ModelProto, each a key and a value.
function metadata(bytes) {
  const found = {};
  const varint = (data, at) => {
    let value = 0, shift = 1, byte;
    do { byte = data[at++]; value += (byte & 127) * shift; shift *= 128; } while (byte & 128);
    return [value, at];
  };
  const fields = (data, visit) => {
    for (let at = 0, tag, size; at < data.length; ) {
      [tag, at] = varint(data, at);
      [size, at] = varint(data, at);
      if ((tag & 7) === 2) {
        visit(tag >> 3, data.subarray(at, at + size));
        at += size;
      }
    }
  };
  fields(bytes, (field, entry) => {
    if (field !== 14) return;
    const pair = {};
    fields(entry, (part, text) => { pair[part] = new TextDecoder().decode(text); });
    found[pair[1]] = pair[2] ?? "";
  });
  return found;
}

const [model, width, height] = process.argv.slice(2);
const bytes = new Uint8Array(readFileSync(model));
const pixels = new Uint8Array(readFileSync(0));
const said = metadata(bytes);
const [mean, std, classes] = [said.mean, said.std, said.classes].map(JSON.parse);
const takesPixels = said.input === "uint8";
const area = width * height;
const image = new (takesPixels ? Uint8Array : Float32Array)(3 * area);
for (let channel = 0; channel < 3; channel++) {
  for (let at = 0; at < area; at++) {
    const value = pixels[3 * at + channel];
    image[channel * area + at] = takesPixels ? value : (value / 255 - mean[channel]) / std[channel];
  }
}
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(bytes);
const tensor = new ort.Tensor(takesPixels ? "uint8" : "float32", image, [1, 3, Number(height), Number(width)]);
const { output } = await session.run({ input: tensor });
console.log(JSON.stringify(Object.fromEntries(classes.map((name, at) => [name, output.data[at]]))));
