// Makes an authority and a certificate for 127.0.0.1 with openssl.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Certificates {
  ca: string;
  certificate: string;
  key: string;
  remove(): void;
}

export function makeCertificates(): Certificates {
  const dir = mkdtempSync(join(tmpdir(), 'unibus-browser-tls-'));
  const file = (name: string) => join(dir, name);
  const openssl = (...words: string[]) =>
    execFileSync('openssl', words, { cwd: dir, stdio: 'pipe', timeout: 20_000 });
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  openssl(
    'req',
    '-x509',
    ...newKey,
    '-days',
    '2',
    '-subj',
    '/CN=authority of a test',
    '-keyout',
    'ca.key',
    '-out',
    'ca.pem',
  );
  openssl('req', ...newKey, '-subj', '/CN=127.0.0.1', '-keyout', 'key.pem', '-out', 'request.pem');
  writeFileSync(file('names'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n');
  const by = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', 'names'];
  openssl('x509', '-req', '-in', 'request.pem', ...by, '-out', 'certificate.pem');
  const remove = () => rmSync(dir, { recursive: true, force: true });
  return { ca: file('ca.pem'), certificate: file('certificate.pem'), key: file('key.pem'), remove };
}
