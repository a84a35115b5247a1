import './app.css';
import { render } from 'preact';
import { App } from './app';
import { followKeys } from './keys';
import { followFragment } from './router';
import { followTheme } from './theme';

followTheme();
followFragment();
followKeys();
const root = document.getElementById('app');
if (root) render(<App />, root);
