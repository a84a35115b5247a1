// Numbers of the program, checked before they are sent: a number that cannot be encoded would look like a broken connection.

import { invalid } from './error.js';

/** An unsigned number of 64 bits (U29). */
export function uint64(field: string, value: bigint | undefined): bigint {
  if (typeof value === 'bigint' && value === BigInt.asUintN(64, value)) return value;
  throw invalid(field, `${field} must be a bigint from 0 to 2^64 - 1`);
}

/** Whole numbers that bound something, by their names. */
export function atLeastOne(values: Record<string, number>): void {
  for (const [name, value] of Object.entries(values)) {
    if (!(value >= 1 && value < 2 ** 32 && Number.isInteger(value)))
      throw invalid(name, `${name} must be a whole number from 1 to 2^32 - 1`);
  }
}
