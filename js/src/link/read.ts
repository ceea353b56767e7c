import { SHAPES } from "../protocol";

interface Shape {
  type?: string;
  enum?: unknown[];
  anyOf?: Shape[];
  items?: Shape;
  properties?: Record<string, Shape>;
  $ref?: string;
  default?: unknown;
}

/** A message that does not have the shape the schema gives it. */
export class Malformed extends Error {}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Copy a value through the named struct of the schema: checked, with defaults filled in and
 * without the fields that this page does not know.
 */
export function read<T>(struct: string, value: unknown): T {
  return through({ $ref: struct }, value, struct) as T;
}

function through(shape: Shape, value: unknown, where: string): unknown {
  if (shape.$ref !== undefined) {
    return through(SHAPES[shape.$ref] as Shape, value, where);
  }
  if (shape.anyOf) {
    return throughAny(shape.anyOf, value, where);
  }
  if (shape.enum) {
    if (shape.enum.includes(value)) return value;
    throw new Malformed(`${where} is not one of ${shape.enum.join(", ")}`);
  }
  if (shape.type === "array") {
    if (!Array.isArray(value)) throw new Malformed(`${where} is not a list`);
    const items = shape.items ?? {};
    return value.map((item, index) => through(items, item, `${where}[${index}]`));
  }
  if (shape.type === "object") {
    return throughObject(shape, value, where);
  }
  if (isScalar(shape.type, value)) return value;
  throw new Malformed(`${where} is not of type ${shape.type}`);
}

function throughAny(shapes: Shape[], value: unknown, where: string): unknown {
  let last: unknown;
  for (const shape of shapes) {
    try {
      return through(shape, value, where);
    } catch (error) {
      last = error;
      // With `X | null` the error of X says more than "is not null".
      if (isRecord(value)) break;
    }
  }
  throw last;
}

function throughObject(shape: Shape, value: unknown, where: string): Record<string, unknown> {
  if (!isRecord(value)) throw new Malformed(`${where} is not an object`);
  const copy: Record<string, unknown> = {};
  for (const [key, inner] of Object.entries(shape.properties ?? {})) {
    const given = Object.hasOwn(value, key) ? value[key] : inner.default;
    copy[key] = through(inner, given, `${where}.${key}`);
  }
  return copy;
}

function isScalar(type: string | undefined, value: unknown): boolean {
  switch (type) {
    case "integer":
      return Number.isSafeInteger(value);
    case "number":
      return typeof value === "number" && Number.isFinite(value);
    case "null":
      return value === null;
    case "string":
    case "boolean":
      return typeof value === type;
    default:
      return false;
  }
}
