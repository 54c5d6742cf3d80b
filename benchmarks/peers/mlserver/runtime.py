"""A custom MLServer runtime that runs an ONNX file, batched adaptively by MLServer.

After MLServer's "Custom Inference Runtimes" (subclass of MLModel, NumpyCodec).
"""

from __future__ import annotations

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """The model at the settings' `uri`."""

    async def load(self) -> bool:
        """Open it."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(self.settings.parameters.extra["threads"])
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Rows to outputs; the batch is MLServer's."""
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        answers = self._session.run([self._output], {self._input: rows.astype("float32", copy=False)})[0]
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output(self._output, answers)],
        )
