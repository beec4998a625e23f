// NOT COMPILED OR RUN by this project's tests, which only see that it is grammatical: there is no Xcode where they run. It
// follows the documentation of Core ML and Vision.
//
// Classifies camera frames with a file of `fbnet-export --input uint8 -o model.mlpackage`, added to an Xcode project: its
// labels and its normalisation are in the file itself.

import CoreML
import Vision

final class Classifier {
    private let request: VNCoreMLRequest

    init() throws {
        guard let url = Bundle.main.url(forResource: "model", withExtension: "mlmodelc") else {
            throw CocoaError(.fileNoSuchFile)
        }
        request = VNCoreMLRequest(model: try VNCoreMLModel(for: MLModel(contentsOf: url)))
        request.imageCropAndScaleOption = .centerCrop
    }

    /// The names and probabilities of the likeliest classes of a frame, the likeliest first.
    func classify(_ frame: CVPixelBuffer, orientation: CGImagePropertyOrientation) throws -> [(String, Float)] {
        try VNImageRequestHandler(cvPixelBuffer: frame, orientation: orientation).perform([request])
        let found = request.results as? [VNClassificationObservation] ?? []
        return found.prefix(3).map { ($0.identifier, $0.confidence) }
    }
}
